# How many answers each arm gets right.


rule accuracy:
    input:
        gates="<results>/verify/gates.json",
        model=model_of,
    output:
        made_by("accuracy"),
    log:
        "<results>/logs/accuracy-{arm}.log",
    benchmark:
        "<results>/benchmarks/accuracy-{arm}.tsv"
    conda:
        CONDA_ENVIRONMENT
    threads: 1  # small models are fastest on one thread; arms share a GPU as its memory holds
    resources:
        gpu=RUN.tensor_parallel_size,
    params:
        config=RUN.path,
        out=out_dir,
        work=f"results/{RUN.scale}/work/accuracy/{{arm}}",
        settings=section("accuracy", "tasks", "parallel"),
    shell:
        "swiftkv accuracy --config {params.config:q} --arm {wildcards.arm} --model {input.model:q}"
        " --out {params.out:q} --work {params.work:q} 2>&1 | tee {log:q}"


rule accuracy_summary:
    input:
        samples=collect("<results>/accuracy/{arm}/samples.jsonl", arm=RUN.accuracy_arms),
        scores=collect("<results>/accuracy/{arm}/lm_eval.json", arm=RUN.accuracy_arms),
    output:
        made_by("accuracy-summary"),
    log:
        "<results>/logs/accuracy-summary.log",
    conda:
        CONDA_ENVIRONMENT
    params:
        out=result_file,
        config=RUN.path,
        arms=arms_dir("accuracy"),
        settings=section("accuracy"),
    shell:
        "swiftkv accuracy-summary --config {params.config:q} --arms {params.arms:q} --out {params.out:q} 2>&1 | tee {log:q}"
