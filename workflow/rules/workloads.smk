# What requests look like, and what the base model's layers do to a prompt.


rule lengths:
    input:
        "<results>/models/base",
    output:
        made_by("lengths"),
    log:
        "<results>/logs/lengths.log",
    conda:
        CONDA_ENVIRONMENT
    params:
        config=RUN.path,
        out=out_dir,
        settings=section("lengths", "tasks"),
    shell:
        "swiftkv lengths --config {params.config} --base {input} --out {params.out} 2>&1 | tee {log}"


rule similarity:
    input:
        "<results>/models/base",
    output:
        table="<results>/similarity/similarity.csv",
        record="<results>/similarity/similarity.csv.provenance.json",
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
        "swiftkv similarity --config {params.config} --base {input} --out {output.table} 2>&1 | tee {log}"
