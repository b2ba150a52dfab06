# How far every model is from the base on published texts.
# Part of the default run where the configuration has the key `divergence`; needs a mirror of the public data, or a network.
if "divergence" in RUN.raw:

    rule divergence:
        input:
            gates="<results>/verify/gates.json",
            base="<results>/models/base",
            models=collect("<results>/models/{arm}", arm=RUN.accuracy_arms[1:]),
        output:
            made_by("divergence"),
        log:
            "<results>/logs/divergence.log",
        benchmark:
            "<results>/benchmarks/divergence.tsv"
        conda:
            CONDA_ENVIRONMENT
        threads: lambda wildcards: max(1, (workflow.cores or 1) // 2)  # arms of the accuracy rule run beside it
        resources:
            gpu=1,
        params:
            config=RUN.path,
            models=models_dir,
            out=out_dir,
            work=f"results/{RUN.scale}/work/divergence",
            settings=section("variants", "divergence"),
        shell:
            "swiftkv divergence --config {params.config:q} --base {input.base:q} --models {params.models:q}"
            " --out {params.out:q} --work {params.work:q} 2>&1 | tee {log:q}"
