"""The options that submit commands document, each with whether it takes a value: "" never, "?" perhaps, "=" always.

Sources: sbatch(1) of Slurm 22.05.8; qsub(1B) of OpenPBS (doc/man1/qsub.1B); qsub(1B) of Torque, and "qsub" of the
Torque Administrator Guide 6.1.2; bsub of the IBM Spectrum LSF 10.1 Command Reference.
"""

from __future__ import annotations

SBATCH = {
    "=": """
        account acctg-freq array batch bb bbf begin chdir cluster-constraint clusters comment constraint
        container core-spec cores-per-socket cpu-freq cpus-per-gpu cpus-per-task deadline delay-boot
        dependency distribution error exclude export export-file extra-node-info gid gpu-bind gpu-freq gpus
        gpus-per-node gpus-per-socket gpus-per-task gres gres-flags hint input job-name kill-on-invalid-dep
        licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus network nodefile
        nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node ntasks-per-socket open-mode
        output partition power prefer priority profile qos reservation signal sockets-per-node switches
        thread-spec threads-per-core time time-min tmp uid wait-all-nodes wckey wrap
        """,
    "?": "exclusive get-user-env nice no-kill propagate",
    "": """
        contiguous help hold ignore-pbs no-requeue overcommit oversubscribe parsable quiet reboot requeue
        spread-job test-only usage use-min-nodes verbose version wait
        """,
}

QSUB_PBS = {"=": "a A c C e j J k l m M N o p P q r R S u v W", "?": "G", "": "f h I V X z"}

QSUB_TORQUE = {"=": "a A b c C d D e F j k K l L m M N o p P q r S t T u v w W", "?": "", "": "E f h I n V x X z"}

BSUB = {
    "=": """
        a alloc_flags app b C c clusters cn_cu cn_mem core_isolation cwd D data datagrp E Ep e env eo eptl ext
        F f freq G g gpu hostfile i is J Jd jsm k L Lp ln_mem ln_slots M m mig n network nnodes notify o oo
        outdir P p pack ptl Q q R S s sla smt sp stage step_cgroup T t U u v W We w wa wt Zs
        """,
    "?": "csm",
    "": "ar B datachk H h I IS ISp ISs IX Ip Is K N r rn tty ti ul V x XF",
}

OPTIONS = {
    "slurm": ("#SBATCH --", "=", SBATCH),
    "pbs": ("#PBS -", " ", QSUB_PBS),
    "pbs_classic": ("#PBS -", " ", QSUB_TORQUE),
    "lsf": ("#BSUB -", " ", BSUB),
}


def undocumented(scheduler: str, script: str) -> list[str]:
    """Return the directives of a batch script that its scheduler does not document."""
    begin, equals, table = OPTIONS[scheduler]
    takes = {word: value for value, words in table.items() for word in words.split()}
    wrong = []
    for line in script.splitlines():
        if line.startswith(begin.rstrip("-")):
            option, found, value = line.removeprefix(begin).partition(equals)
            has_value = "=" if found and value else ""
            if not line.startswith(begin) or takes.get(option) not in (has_value, "?"):
                wrong.append(line)
    return wrong
