# Speed. The rule takes every core: nothing runs beside a measurement of time.


rule throughput:
    input:
        gates="<results>/verify/gates.json",
    output:
        made_by("throughput"),
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
        config=RUN.path,
        out=out_dir,
        work=f"results/{RUN.scale}/work/throughput",
        settings=section("variants", "throughput", "parallel"),
    shell:
        "swiftkv throughput --config {params.config:q} --out {params.out:q} --work {params.work:q} 2>&1 | tee {log:q}"
