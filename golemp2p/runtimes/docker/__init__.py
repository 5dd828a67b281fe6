"""Runtime "vm", backend docker: container images on a Docker-compatible engine."""
