# Speed. The rule takes every core: nothing runs beside a measurement of time.
THROUGHPUT = "measurements.jsonl requests.jsonl.gz summary.csv latency.jsonl latency.csv kv_capacity.csv compute.csv".split()


rule throughput:
    input:
        gates="<results>/verify/gates.json",
        config=CONFIG,
    output:
        recorded(*collect("<results>/throughput/{file}", file=THROUGHPUT)),
    log:
        "<results>/logs/throughput.log",
    benchmark:
        "<results>/benchmarks/throughput.tsv"
    conda:
        CONDA_ENVIRONMENT
    threads: workflow.cores
    resources:
        gpu=RUN.tensor_parallel_size,
    params:
        config=config_file,
        out=out_dir,
        work=f"results/{RUN.scale}/work/throughput",
        settings=section("variants", "throughput", "parallel"),
    shell:
        "swiftkv throughput --config {params.config:q} --out {params.out:q} --work {params.work:q} 2>&1 | tee {log:q}"
