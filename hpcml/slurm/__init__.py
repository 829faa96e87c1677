"""Slurm: which launcher fits the MPI, what a job does when it is asked to end, scripts, the site, the queue. No MPI."""
