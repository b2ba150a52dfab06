# The run's configuration, whole and validated, where its commands read it.


rule config:
    output:
        "<results>/config.yaml",
    log:
        "<results>/logs/config.log",
    conda:
        CONDA_ENVIRONMENT
    localrule: True
    params:
        text=whole_config,
    shell:
        "printf %s {params.text:q} 2> {log:q} > {output:q}"
