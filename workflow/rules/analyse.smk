# From measurements to verdicts, tables, figures and executed notebooks.
from swiftkv.exhibits import FIGURES, TABLES

NOTEBOOKS = ["throughput", "accuracy", "diagnosis"]
EVIDENCE = [
    "<results>/models/distill.jsonl",
    "<results>/lengths/lengths.csv",
    "<results>/similarity/similarity.csv",
    "<results>/verify/gates.json",
    "<results>/throughput/summary.csv",
    "<results>/accuracy/summary.csv",
    "<results>/diagnosis/difficulty.csv",
]


rule claims:
    input:
        EVIDENCE,
        "config/claims.yaml",
        "config/published.csv",
    output:
        report(
            "<results>/claims.csv", caption="../report/claims.rst", category="Claims"
        ),
        "<results>/claims.md",
    log:
        "<results>/logs/claims.log",
    conda:
        "../../environment.yml"
    params:
        config=RUN.path,
        out=out_dir,
    shell:
        "swiftkv claims --config {params.config} --out {params.out} 2>&1 | tee {log}"


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
    log:
        "<results>/logs/figures.log",
    conda:
        "../../environment.yml"
    params:
        config=RUN.path,
        out=out_dir,
    shell:
        "swiftkv figures --config {params.config} --out {params.out} 2>&1 | tee {log}"


rule tables:
    input:
        EVIDENCE,
        "<results>/claims.csv",
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
    log:
        "<results>/logs/tables.log",
    conda:
        "../../environment.yml"
    params:
        config=RUN.path,
        out=out_dir,
    shell:
        "swiftkv tables --config {params.config} --out {params.out} 2>&1 | tee {log}"


rule notebook:
    input:
        EVIDENCE,
        "<results>/claims.csv",
        notebook="notebooks/{notebook}.ipynb",
    output:
        "<results>/notebooks/{notebook}.ipynb",
    log:
        "<results>/logs/notebook-{notebook}.log",
    conda:
        "../../environment.yml"
    params:
        config=RUN.path,
    shell:
        "swiftkv notebook {wildcards.notebook} --config {params.config} --out {output} 2>&1 | tee {log}"
