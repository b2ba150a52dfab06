# What requests look like.


rule lengths:
    input:
        base="<results>/models/base",
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
        "swiftkv lengths --config {params.config:q} --base {input.base:q} --out {params.out:q} 2>&1 | tee {log:q}"
