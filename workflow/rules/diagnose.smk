# Where students lose answers that the base model gets right.


rule diagnose:
    input:
        gates="<results>/verify/gates.json",
        base="<results>/models/base",
        models=collect("<results>/models/{variant}", variant=VARIANTS),
    output:
        made_by("diagnose"),
    log:
        "<results>/logs/diagnose.log",
    benchmark:
        "<results>/benchmarks/diagnose.tsv"
    conda:
        CONDA_ENVIRONMENT
    threads: 1  # beside an arm of the accuracy rule; a GPU still takes one job at a time
    resources:
        gpu=1,
    params:
        config=RUN.path,
        models=models_dir,
        out=out_dir,
        settings=section("variants", "diagnosis", "tasks"),
    shell:
        "swiftkv diagnose --config {params.config:q} --base {input.base:q} --models {params.models:q} --out {params.out:q}"
        " 2>&1 | tee {log:q}"
