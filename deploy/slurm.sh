#!/bin/bash
# sbatch deploy/slurm.sh train.py --config=configs/cifar10.py --workdir=/shared/cifar10
#SBATCH --job-name=progguide
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1     # it uses all GPUs of its node
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120       # two minutes before the end: save, and end with code 75
#SBATCH --open-mode=append

# bash waits for srun, which hands SIGTERM to the tasks
srun --kill-on-bad-exit=0 python "$@"
code=$?
# 75: what is saved is whole, and the same command goes on from it
[ $code -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit $code
