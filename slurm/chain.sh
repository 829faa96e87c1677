#!/bin/bash
# A training in links: jobs of which each begins when the one before has ended, however that did, and goes on with the
# same run. For sites where jobs may not requeue themselves, or where a place in the queue is worth more early.
# On the login node, not by sbatch:
#
#     slurm/chain.sh 5 --nodes=4 --time=04:00:00 slurm/train.sbatch --data rows.csv --target label --output runs/mine
#
# The number of links; then what sbatch would get, with --output DIR among the arguments of the training. Links that find
# the training complete end at once.

set -eu
links=$1
shift
case " $* " in *" --output "*) ;; *) echo "chain.sh: name the run directory of all links: --output DIR" >&2; exit 2 ;; esac

# Links do not requeue themselves: that is what the next one is for.
export HPCML_RESTARTS=0
before=
for ((link = 1; link <= links; link++)); do
    before=$(sbatch --parsable ${before:+--dependency=afterany:"$before" --kill-on-invalid-dep=yes} "$@")
    before=${before%%;*}
    echo "link $link: job $before"
done
