# Undistilled controls, and all distilled students in one run.


rule convert:
    input:
        base="<results>/models/base",
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
        "swiftkv convert --config {params.config:q} --base {input.base:q} --variant {wildcards.variant} --out {output:q}"
        " 2>&1 | tee {log:q}"


rule distill:
    input:
        base="<results>/models/base",
        starts=starts_of_variants,
        data=TRAINING_DATA,
    output:
        directory(collect("<results>/models/{variant}", variant=VARIANTS)),
        curve=made_by("distill"),
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
        data=given_data,
        settings=section("variants", "distill", "tasks", "parallel"),
    shell:
        "swiftkv distill --config {params.config:q} --base {input.base:q} --out {params.out:q} --work {params.work:q}"
        " {params.data} 2>&1 | tee {log:q}"
