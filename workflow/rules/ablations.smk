# A target of its own: snakemake --cores all --configfile config/ablations.yaml -- ablations
rule ablations:
    input:
        base="<results>/models/base",
        data=TRAINING_DATA,
    output:
        made_by("ablate"),
    log:
        "<results>/logs/ablations.log",
    benchmark:
        "<results>/benchmarks/ablations.tsv"
    conda:
        CONDA_ENVIRONMENT
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        config=RUN.path,
        out=out_dir,
        work=f"results/{RUN.scale}/work/ablations",
        settings=section("variants", "distill", "tasks", "ablations"),
    shell:
        "swiftkv ablate --config {params.config:q} --base {input.base:q} --out {params.out:q} --work {params.work:q}"
        " 2>&1 | tee {log:q}"
