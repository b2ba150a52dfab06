# The gates, which everything measured afterwards waits for.


rule verify:
    input:
        base="<results>/models/base",
        models=collect("<results>/models/{variant}", variant=VARIANTS),
    output:
        made_by("verify"),
    log:
        "<results>/logs/verify.log",
    benchmark:
        "<results>/benchmarks/verify.tsv"
    conda:
        CONDA_ENVIRONMENT
    threads: workflow.cores
    resources:
        gpu=RUN.tensor_parallel_size,
    params:
        out=result_file,
        config=RUN.path,
        models=models_dir,
        settings=section("variants", "verify", "parallel"),
    shell:
        "swiftkv verify --config {params.config:q} --base {input.base:q} --models {params.models:q} --out {params.out:q}"
        " 2>&1 | tee {log:q}"
