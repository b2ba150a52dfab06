# What the base model's layers do to a prompt.


rule similarity:
    input:
        base="<results>/models/base",
    output:
        made_by("similarity"),
    log:
        "<results>/logs/similarity.log",
    conda:
        CONDA_ENVIRONMENT
    resources:
        gpu=1,
    params:
        out=result_file,
        config=RUN.path,
        settings=section("similarity", "tasks"),
    shell:
        "swiftkv similarity --config {params.config:q} --base {input.base:q} --out {params.out:q} 2>&1 | tee {log:q}"
