# The run's configuration, whole and validated, where its commands read it.


rule config:
    input:
        nothing_or_force,
    output:
        "<results>/config.yaml",
    log:
        "<results>/logs/config.log",
    localrule: True
    conda:
        CONDA_ENVIRONMENT
    params:
        text=whole_config,
    shell:
        "printf %s {params.text:q} 2> {log:q} > {output:q}"
