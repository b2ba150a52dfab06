# From measurements to verdicts, tables, figures and executed notebooks.
from swiftkv.report import exhibits

FIGURES = exhibits.of(RUN, exhibits.FIGURES)
TABLES = exhibits.of(RUN, exhibits.TABLES)
# Those of `load` and `planning` are about targets and machines of their own.
NOTEBOOKS = ["00-verdicts", "throughput", "accuracy", "diagnosis"]
# All that these stages read of a run.
EVIDENCE = [
    *made_by("distill"),
    "<results>/models/base",
    collect("<results>/models/{variant}", variant=VARIANTS),
    made_by("lengths"),
    made_by("similarity"),
    made_by("verify"),
    made_by("throughput"),
    made_by("accuracy-summary"),
    collect("<results>/accuracy/{arm}/samples.jsonl", arm=RUN.accuracy_arms),
    made_by("diagnose"),
    made_by("divergence") if "divergence" in RUN.raw else [],
]


rule claims:
    input:
        evidence=EVIDENCE,
        protocol=made_by("protocol-summary") if "protocol" in RUN.raw else [],
        rules=[project("config/claims.yaml"), project("config/published.csv")],
    output:
        report(
            "<results>/claims.csv", caption="../report/claims.rst", category="Claims"
        ),
        "<results>/claims.csv.provenance.json",
        recorded("<results>/claims.md"),
    log:
        "<results>/logs/claims.log",
    conda:
        CONDA_ENVIRONMENT
    params:
        config=RUN.path,
        run=run_dir,
        out=out_dir,
    shell:
        "swiftkv claims --config {params.config:q} --results {params.run:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule figures:
    input:
        evidence=EVIDENCE,
    output:
        [
            report(
                f"<results>/figures/{figure}.png",
                caption=f"../report/{figure}.rst",
                category="Figures",
                labels={"figure": figure},
            )
            for figure in FIGURES
        ],
        collect(
            "<results>/figures/{figure}.{form}", figure=FIGURES, form=("svg", "pdf")
        ),
        "<results>/figures/figures.provenance.json",
    log:
        "<results>/logs/figures.log",
    conda:
        CONDA_ENVIRONMENT
    params:
        config=RUN.path,
        run=run_dir,
        out=out_dir,
    shell:
        "swiftkv figures --config {params.config:q} --results {params.run:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule tables:
    input:
        evidence=EVIDENCE,
        claims=recorded("<results>/claims.csv"),
    output:
        [
            report(
                f"<results>/tables/{table}.csv",
                caption=f"../report/{table}.rst",
                category="Tables",
                labels={"table": table},
            )
            for table in TABLES
        ],
        collect("<results>/tables/{table}.{form}", table=TABLES, form=("md", "tex")),
        "<results>/tables/tables.tex",
        "<results>/tables/tables.provenance.json",
    log:
        "<results>/logs/tables.log",
    conda:
        CONDA_ENVIRONMENT
    params:
        config=RUN.path,
        run=run_dir,
        out=out_dir,
    shell:
        "swiftkv tables --config {params.config:q} --results {params.run:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule site:
    input:
        evidence=EVIDENCE,
        claims=recorded("<results>/claims.csv"),
    output:
        recorded("<results>/index.html"),
    log:
        "<results>/logs/site.log",
    conda:
        CONDA_ENVIRONMENT
    params:
        config=RUN.path,
        run=run_dir,
        out=result_file,
    shell:
        "swiftkv site {params.run:q} --config {params.config:q} --out {params.out:q} 2>&1 | tee {log:q}"


rule notebook:
    input:
        evidence=EVIDENCE,
        claims=recorded("<results>/claims.csv"),
        notebook=source_of_notebook,
    output:
        executed="<results>/notebooks/{notebook}.ipynb",
        record="<results>/notebooks/{notebook}.ipynb.provenance.json",
    log:
        "<results>/logs/notebook-{notebook}.log",
    wildcard_constraints:
        notebook="|".join(NOTEBOOKS),
    conda:
        CONDA_ENVIRONMENT
    params:
        config=RUN.path,
        run=run_dir,
    shell:
        "swiftkv notebook {wildcards.notebook} --config {params.config:q} --results {params.run:q} --out {output.executed:q} 2>&1 | tee {log:q}"
