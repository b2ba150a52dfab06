# Rows to distil on that are made for the base, where the configuration asks for them (distill.data.source: self).
if TRAINING_DATA:

    rule training_data:
        input:
            base="<results>/models/base",
            files=mix_files,
        output:
            made_by("training-data"),
        log:
            "<results>/logs/training-data.log",
        conda:
            CONDA_ENVIRONMENT
        threads: workflow.cores
        resources:
            gpu=RUN.tensor_parallel_size if RUN.distill.data.base_writes else 0,
        params:
            config=RUN.path,
            out=out_dir,
            work=f"results/{RUN.scale}/work/data",
            data=RUN.raw["distill"]["data"],
            settings=section("base", "tasks"),
        shell:
            "swiftkv training-data --config {params.config:q} --base {input.base:q} --out {params.out:q}"
            " --work {params.work:q} 2>&1 | tee {log:q}"
