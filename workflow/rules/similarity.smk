# What the base model's layers do to a prompt.


rule similarity:
    input:
        base="<results>/models/base",
    output:
        layers=made_by("similarity"),
    log:
        "<results>/logs/similarity.log",
    conda:
        CONDA_ENVIRONMENT
    resources:
        gpu=1,
    params:
        config=RUN.path,
        settings=section("similarity", "tasks"),
    shell:
        "swiftkv similarity --config {params.config:q} --base {input.base:q} --out {output.layers:q} 2>&1 | tee {log:q}"
