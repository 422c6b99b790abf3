"""Site profiles: one YAML file per machine."""
