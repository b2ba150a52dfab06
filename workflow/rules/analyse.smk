# From measurements to verdicts, tables, figures and executed notebooks.
from swiftkv.report.exhibits import FIGURES, TABLES

NOTEBOOKS = ["throughput", "accuracy", "diagnosis"]
# All that these stages read of a run; the first file tells them where the run is.
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
]


rule claims:
    input:
        EVIDENCE,
        local("config/claims.yaml"),
        local("config/published.csv"),
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
        run=two_above,
        out=out_dir,
    shell:
        "swiftkv claims --config {params.config} --results {params.run} --out {params.out} 2>&1 | tee {log}"


rule figures:
    input:
        EVIDENCE,
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
        collect("<results>/figures/{figure}.svg", figure=FIGURES),
        "<results>/figures/figures.provenance.json",
    log:
        "<results>/logs/figures.log",
    conda:
        CONDA_ENVIRONMENT
    params:
        config=RUN.path,
        run=two_above,
        out=out_dir,
    shell:
        "swiftkv figures --config {params.config} --results {params.run} --out {params.out} 2>&1 | tee {log}"


rule tables:
    input:
        EVIDENCE,
        recorded("<results>/claims.csv"),
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
        run=two_above,
        out=out_dir,
    shell:
        "swiftkv tables --config {params.config} --results {params.run} --out {params.out} 2>&1 | tee {log}"


rule notebook:
    input:
        EVIDENCE,
        recorded("<results>/claims.csv"),
        notebook=local("notebooks/{notebook}.ipynb"),
    output:
        executed="<results>/notebooks/{notebook}.ipynb",
        record="<results>/notebooks/{notebook}.ipynb.provenance.json",
    log:
        "<results>/logs/notebook-{notebook}.log",
    conda:
        CONDA_ENVIRONMENT
    params:
        config=RUN.path,
        run=two_above,
    shell:
        "swiftkv notebook {wildcards.notebook} --config {params.config} --results {params.run} --out {output.executed} 2>&1 | tee {log}"
