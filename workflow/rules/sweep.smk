# A target of its own: snakemake --cores all --configfile config/sweep.yaml -- sweep
SWEEP_FIGURES = "ratio map capacity prefix models prediction".split()


rule calibrate:
    output:
        "<results>/calibration.json",
    log:
        "<results>/logs/calibrate.log",
    benchmark:
        "<results>/benchmarks/calibrate.tsv"
    conda:
        "../../environment.yml"
    threads: workflow.cores
    resources:
        gpu=1,
    params:
        config=RUN.path,
        settings=section("throughput"),
    shell:
        "swiftkv calibrate --config {params.config} --out {output} 2>&1 | tee {log}"


rule predict:
    input:
        "<results>/throughput/summary.csv",
        "<results>/throughput/latency.csv",
        calibration="<results>/calibration.json",
    output:
        collect(
            "<results>/predictions/{file}",
            file="speedups.csv speedups.md map.csv models.csv".split(),
        ),
    log:
        "<results>/logs/predict.log",
    conda:
        "../../environment.yml"
    params:
        config=RUN.path,
        results=f"results/{RUN.scale}",
        out=out_dir,
        settings=section("variants", "throughput"),
    shell:
        "swiftkv predict --config {params.config} --results {params.results} --gpu {input.calibration}"
        " --out {params.out} 2>&1 | tee {log}"


rule sweep_figures:
    input:
        "<results>/throughput/kv_capacity.csv",
        rules.predict.output,
    output:
        collect("<results>/sweep/fig-{figure}.png", figure=SWEEP_FIGURES),
    log:
        "<results>/logs/sweep-figures.log",
    conda:
        "../../environment.yml"
    params:
        config=RUN.path,
        out=out_dir,
    shell:
        "swiftkv figures --sweep --config {params.config} --out {params.out} 2>&1 | tee {log}"


rule sweep:
    input:
        rules.sweep_figures.output,
