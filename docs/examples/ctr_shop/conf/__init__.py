"""The YAML files of this package's parts; a package, so that Hydra finds them."""
