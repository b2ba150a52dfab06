# Servers under load.
# Not part of the default run: `snakemake served`, where the configuration has the key `served`.
if "served" in RUN.raw:

    rule serve_load:
        input:
            gates="<results>/verify/gates.json",
        output:
            collect("<results>/served/{file}", file=registry.names("served")),
        log:
            "<results>/logs/serve-load.log",
        benchmark:
            "<results>/benchmarks/serve-load.tsv"
        conda:
            CONDA_ENVIRONMENT
        threads: workflow.cores
        resources:
            gpu=RUN.tensor_parallel_size,
        params:
            config=RUN.path,
            out=out_dir,
            work=f"results/{RUN.scale}/work/served",
            settings=section("variants", "throughput", "served", "parallel"),
        shell:
            "swiftkv serve-load --config {params.config:q} --out {params.out:q} --work {params.work:q} 2>&1 | tee {log:q}"

    rule served:
        input:
            "<results>/served/claims.csv",
            "<results>/served/fig-served.png",

    rule served_claims:
        input:
            summary="<results>/served/summary.csv",
            gates="<results>/verify/gates.json",
            rules=[project("config/claims.yaml"), project("config/published.csv")],
        output:
            collect("<results>/served/claims.{form}", form=["csv", "md"]),
        log:
            "<results>/logs/served-claims.log",
        conda:
            CONDA_ENVIRONMENT
        params:
            config=RUN.path,
            run=run_dir,
            out=out_dir,
        shell:
            "swiftkv claims --config {params.config:q} --results {params.run:q} --out {params.out:q} 2>&1 | tee {log:q}"

    rule serve_report:
        input:
            measurements="<results>/served/served.jsonl",
            summary="<results>/served/summary.csv",
            saturation="<results>/served/saturation.csv",
        output:
            "<results>/served/fig-served.png",
            "<results>/served/fig-served-latency.png",
            "<results>/served/tab-served.csv",
            "<results>/served/tab-saturation.csv",
        log:
            "<results>/logs/serve-report.log",
        conda:
            CONDA_ENVIRONMENT
        params:
            config=RUN.path,
            out=out_dir,
        shell:
            "swiftkv serve-report --config {params.config:q} --out {params.out:q} 2>&1 | tee {log:q}"
