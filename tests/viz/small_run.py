"""The run that the tests of a view look at: twelve requests on 64 blocks, some with a shared prefix."""

from nano_batch import lab

BATCH = {"max_num_seqs": 6, "max_num_batched_tokens": 128}


def small_run(**options):
    """The workload, and its run with further `options` of the engine."""
    families = lab.Families(count=2, prefix_tokens=64, share=0.5)
    workload = lab.Workload.synthetic(
        12, prompts=120, outputs=90, seed=3, arrivals="at_once", families=families
    )
    return workload, lab.serve(workload, memory_tokens=1024, **{**BATCH, **options})
