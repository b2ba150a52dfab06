# A target of its own: snakemake --cores all --configfile config/sweep.yaml -- sweep
from swiftkv.report.exhibits import SWEEP_FIGURES


rule predict:
    input:
        summary="<results>/throughput/summary.csv",
        latency="<results>/throughput/latency.csv",
    output:
        collect("<results>/predictions/{file}", file=registry.names("predict")),
    log:
        "<results>/logs/predict.log",
    conda:
        CONDA_ENVIRONMENT
    params:
        config=RUN.path,
        results=run_dir,
        out=out_dir,
        settings=section("variants", "throughput"),
    shell:
        "swiftkv predict --config {params.config:q} --results {params.results:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule sweep_figures:
    input:
        capacity="<results>/throughput/kv_capacity.csv",
        predictions=rules.predict.output,
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
        "swiftkv figures --sweep --config {params.config:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule sweep:
    input:
        rules.sweep_figures.output,
