# Gates, then speed and accuracy. The throughput rule takes every core: nothing runs beside a measurement of time.


rule verify:
    input:
        base="<results>/models/base",
        models=collect("<results>/models/{variant}", variant=VARIANTS),
    output:
        gates="<results>/verify/gates.json",
        record="<results>/verify/gates.json.provenance.json",
    log:
        "<results>/logs/verify.log",
    benchmark:
        "<results>/benchmarks/verify.tsv"
    conda:
        CONDA_ENVIRONMENT
    threads: workflow.cores
    resources:
        gpu=RUN.tensor_parallel_size,
    params:
        config=RUN.path,
        models=models_dir,
        settings=section("variants", "verify", "parallel"),
    shell:
        "swiftkv verify --config {params.config} --base {input.base} --models {params.models} --out {output.gates}"
        " 2>&1 | tee {log}"


rule throughput:
    input:
        "<results>/verify/gates.json",
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
        "swiftkv throughput --config {params.config} --out {params.out} --work {params.work} 2>&1 | tee {log}"


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
    threads: 1  # small models are fastest on one thread; a GPU still takes one arm at a time
    resources:
        gpu=RUN.tensor_parallel_size,
    params:
        config=RUN.path,
        out=out_dir,
        work=f"results/{RUN.scale}/work/accuracy/{{arm}}",
        settings=section("accuracy", "tasks", "parallel"),
    shell:
        "swiftkv accuracy --config {params.config} --arm {wildcards.arm} --model {input.model}"
        " --out {params.out} --work {params.work} 2>&1 | tee {log}"


rule accuracy_summary:
    input:
        collect("<results>/accuracy/{arm}/samples.jsonl", arm=RUN.accuracy_arms),
        collect("<results>/accuracy/{arm}/lm_eval.json", arm=RUN.accuracy_arms),
    output:
        table="<results>/accuracy/summary.csv",
        record="<results>/accuracy/summary.csv.provenance.json",
    log:
        "<results>/logs/accuracy-summary.log",
    conda:
        CONDA_ENVIRONMENT
    params:
        config=RUN.path,
        arms=two_above,
        settings=section("accuracy"),
    shell:
        "swiftkv accuracy-summary --config {params.config} --arms {params.arms} --out {output.table} 2>&1 | tee {log}"


rule diagnose:
    input:
        "<results>/verify/gates.json",
        base="<results>/models/base",
        models=collect("<results>/models/{variant}", variant=VARIANTS),
    output:
        made_by("diagnose"),
    log:
        "<results>/logs/diagnose.log",
    benchmark:
        "<results>/benchmarks/diagnose.tsv"
    conda:
        CONDA_ENVIRONMENT
    threads: 1  # beside an arm of the accuracy rule; a GPU still takes one job at a time
    resources:
        gpu=1,
    params:
        config=RUN.path,
        models=models_dir,
        out=out_dir,
        settings=section("variants", "diagnosis", "tasks"),
    shell:
        "swiftkv diagnose --config {params.config} --base {input.base} --models {params.models} --out {params.out}"
        " 2>&1 | tee {log}"


# Not part of the default run: `snakemake protocol`, where the configuration has the key `protocol`.
if "protocol" in RUN.raw:

    rule protocol_arm:
        input:
            gates="<results>/verify/gates.json",
            model=model_of,
        output:
            recorded("<results>/protocol/{arm}/protocol.json"),
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
            "swiftkv protocol --config {params.config} --arm {wildcards.arm} --model {input.model}"
            " --out {params.out} --work {params.work} 2>&1 | tee {log}"

    rule protocol_summary:
        input:
            collect("<results>/protocol/{arm}/protocol.json", arm=RUN.accuracy_arms),
        output:
            table="<results>/protocol/summary.csv",
            record="<results>/protocol/summary.csv.provenance.json",
        log:
            "<results>/logs/protocol-summary.log",
        conda:
            CONDA_ENVIRONMENT
        params:
            config=RUN.path,
            arms=two_above,
            settings=section("protocol"),
        shell:
            "swiftkv protocol-summary --config {params.config} --arms {params.arms} --out {output.table} 2>&1 | tee {log}"

    rule protocol:
        input:
            "<results>/protocol/summary.csv",
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
            "swiftkv protocol-report --config {params.config} --out {params.out} 2>&1 | tee {log}"


# Not part of the default run: `snakemake served`, where the configuration has the key `served`.
if "served" in RUN.raw:

    rule serve_load:
        input:
            "<results>/verify/gates.json",
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
            "swiftkv serve-load --config {params.config} --out {params.out} --work {params.work} 2>&1 | tee {log}"

    rule served:
        input:
            "<results>/served/claims.csv",
            "<results>/served/fig-served.png",

    rule served_claims:
        input:
            "<results>/served/summary.csv",
            "<results>/verify/gates.json",
            local("config/claims.yaml"),
            local("config/published.csv"),
        output:
            collect("<results>/served/claims.{form}", form=["csv", "md"]),
        log:
            "<results>/logs/served-claims.log",
        conda:
            CONDA_ENVIRONMENT
        params:
            config=RUN.path,
            run=two_above,
            out=out_dir,
        shell:
            "swiftkv claims --config {params.config} --results {params.run} --out {params.out} 2>&1 | tee {log}"

    rule serve_report:
        input:
            "<results>/served/served.jsonl",
            "<results>/served/summary.csv",
            "<results>/served/saturation.csv",
        output:
            "<results>/served/fig-served.png",
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
            "swiftkv serve-report --config {params.config} --out {params.out} 2>&1 | tee {log}"
