# A target of its own: snakemake --cores all --configfile config/sweep.yaml -- sweep
from swiftkv.report.exhibits import SWEEP_FIGURES


rule predict:
    input:
        "<results>/throughput/summary.csv",
        "<results>/throughput/latency.csv",
    output:
        collect("<results>/predictions/{file}", file=registry.names("predict")),
    log:
        "<results>/logs/predict.log",
    conda:
        CONDA_ENVIRONMENT
    params:
        config=RUN.path,
        results=two_above,
        out=out_dir,
        settings=section("variants", "throughput"),
    shell:
        "swiftkv predict --config {params.config} --results {params.results} --out {params.out} 2>&1 | tee {log}"


rule sweep_figures:
    input:
        "<results>/throughput/kv_capacity.csv",
        rules.predict.output,
    output:
        collect("<results>/figures/{figure}.png", figure=SWEEP_FIGURES),
    log:
        "<results>/logs/sweep-figures.log",
    conda:
        CONDA_ENVIRONMENT
    params:
        config=RUN.path,
        out=out_dir,
    shell:
        "swiftkv figures --sweep --config {params.config} --out {params.out} 2>&1 | tee {log}"


rule sweep:
    input:
        rules.sweep_figures.output,
