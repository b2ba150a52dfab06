# SwiftKV, reproduced: base model -> students -> gates -> throughput and accuracy -> figures, tables, verdicts.
# The pipeline itself is workflow/Snakefile; this file lets a plain `snakemake --cores all` find it.
include: "workflow/Snakefile"


workflow.default_target = "all"
