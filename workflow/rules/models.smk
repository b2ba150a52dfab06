# Base model, undistilled controls, and all distilled students in one run.


rule base:
    input:
        base_files,
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
        "swiftkv fetch-base --config {params.config} --out {output} --work {params.work} 2>&1 | tee {log}"


rule convert:
    input:
        "<results>/models/base",
    output:
        directory("<results>/models/{variant}-undistilled"),
    log:
        "<results>/logs/convert-{variant}.log",
    conda:
        CONDA_ENVIRONMENT
    params:
        config=RUN.path,
        settings=section("variants"),
    shell:
        "swiftkv convert --config {params.config} --base {input} --variant {wildcards.variant} --out {output}"
        " 2>&1 | tee {log}"


rule distill:
    input:
        "<results>/models/base",
    output:
        directory(collect("<results>/models/{variant}", variant=VARIANTS)),
        curve=recorded("<results>/models/distill.jsonl"),
    log:
        "<results>/logs/distill.log",
    benchmark:
        "<results>/benchmarks/distill.tsv"
    conda:
        CONDA_ENVIRONMENT
    threads: workflow.cores
    resources:
        gpu=RUN.fsdp_world_size,
    params:
        config=RUN.path,
        out=out_dir,
        work=f"results/{RUN.scale}/work/distill",
        settings=section("variants", "distill", "tasks", "parallel"),
    shell:
        "swiftkv distill --config {params.config} --base {input} --out {params.out} --work {params.work}"
        " 2>&1 | tee {log}"


# A target of its own: snakemake --cores all --configfile config/ablations.yaml -- ablations
rule ablations:
    input:
        "<results>/models/base",
    output:
        collect("<results>/ablations/{file}", file=("ablations.csv", "summary.md")),
        recorded("<results>/ablations/summary.csv"),
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
        "swiftkv ablate --config {params.config} --base {input} --out {params.out} --work {params.work}"
        " 2>&1 | tee {log}"
