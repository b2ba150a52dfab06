# The paper's own protocol.
# Where the configuration has the key `protocol`: the claims about accuracy are then judged by its seven tasks, if it has them
# all. `snakemake protocol` makes its table alone.
if "protocol" in RUN.raw:

    rule protocol_arm:
        input:
            gates="<results>/verify/gates.json",
            model=model_of,
        output:
            made_by("protocol"),
        log:
            "<results>/logs/protocol-{arm}.log",
        benchmark:
            "<results>/benchmarks/protocol-{arm}.tsv"
        conda:
            CONDA_ENVIRONMENT
        threads: workflow.cores
        resources:
            gpu=RUN.tensor_parallel_size,
        params:
            config=RUN.path,
            out=out_dir,
            work=f"results/{RUN.scale}/work/protocol",
            settings=section("protocol", "parallel"),
        shell:
            "swiftkv protocol --config {params.config:q} --arm {wildcards.arm} --model {input.model:q}"
            " --out {params.out:q} --work {params.work:q} 2>&1 | tee {log:q}"

    rule protocol_summary:
        input:
            scores=collect(
                "<results>/protocol/{arm}/protocol.json", arm=RUN.accuracy_arms
            ),
        output:
            made_by("protocol-summary"),
        log:
            "<results>/logs/protocol-summary.log",
        conda:
            CONDA_ENVIRONMENT
        params:
            out=result_file,
            config=RUN.path,
            arms=arms_dir("protocol"),
            settings=section("protocol"),
        shell:
            "swiftkv protocol-summary --config {params.config:q} --arms {params.arms:q} --out {params.out:q} 2>&1 | tee {log:q}"

    rule protocol:
        input:
            summary="<results>/protocol/summary.csv",
        output:
            collect("<results>/protocol/tab-protocol.{form}", form=("csv", "md", "tex")),
        log:
            "<results>/logs/protocol-report.log",
        conda:
            CONDA_ENVIRONMENT
        params:
            config=RUN.path,
            out=out_dir,
        shell:
            "swiftkv protocol-report --config {params.config:q} --out {params.out:q} 2>&1 | tee {log:q}"
