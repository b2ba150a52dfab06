# The base model, checked, where every stage finds it.


rule base:
    input:
        weights=base_files,
    output:
        directory("<results>/models/base"),
    log:
        "<results>/logs/base.log",
    benchmark:
        "<results>/benchmarks/base.tsv"
    conda:
        CONDA_ENVIRONMENT
    threads: workflow.cores
    params:
        config=RUN.path,
        work=f"results/{RUN.scale}/work/base",
        settings=section(
            "base",
            *(("tasks", "train_base") if RUN.base.source == "train" else ()),
        ),
    shell:
        "swiftkv fetch-base --config {params.config:q} --out {output:q} --work {params.work:q} 2>&1 | tee {log:q}"
