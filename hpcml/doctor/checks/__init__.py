"""The checks, one module each; `hpcml.doctor.catalogue` lists them."""
