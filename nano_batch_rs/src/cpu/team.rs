//! Tasks on the threads that another library has ready.
//!
//! Between the kernels of a step PyTorch computes on OpenMP's threads, and these look for work for a while
//! before they sleep. Threads of our own beside them would share their processors with that. So whoever
//! starts the core hands over OpenMP's `GOMP_parallel`; without it, the caller does all tasks alone.

use std::ffi::{c_uint, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Calls a function with the data on so many threads at once, the caller's among them, and waits for them.
///
/// The last argument is 0. What GCC makes of `#pragma omp parallel`; LLVM's library has it, too.
pub type Parallel =
    unsafe extern "C" fn(body: extern "C" fn(*mut c_void), data: *mut c_void, threads: c_uint, flags: c_uint);

static PARALLEL: OnceLock<Parallel> = OnceLock::new();

/// Sets how tasks come to threads, once in a process.
///
/// # Safety
/// It does what `Parallel` says for as long as the process lives.
pub unsafe fn use_threads(parallel: Parallel) {
    let _ = PARALLEL.set(parallel);
}

/// Does the tasks 0 to `tasks` - 1 on up to `threads` threads.
///
/// The threads are all or one: OpenMP changes the size of a team only by making another.
pub fn for_each(threads: usize, tasks: usize, work: &(dyn Fn(usize) + Sync)) {
    let parallel = PARALLEL.get().filter(|_| threads > 1 && tasks > 1);
    let Some(parallel) = parallel else {
        return (0..tasks).for_each(work);
    };
    let job = Job { work, tasks, next: AtomicUsize::new(0), panicked: AtomicBool::new(false) };
    let threads = c_uint::try_from(threads).unwrap_or(c_uint::MAX);
    // SAFETY: the job outlives the call, which waits for all threads; they only share it.
    unsafe { parallel(run, (&raw const job).cast_mut().cast(), threads, 0) };
    assert!(!job.panicked.into_inner(), "a task panicked");
}

struct Job<'a> {
    work: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    /// The next task that nobody has begun.
    next: AtomicUsize,
    panicked: AtomicBool,
}

extern "C" fn run(job: *mut c_void) {
    // SAFETY: `for_each` gives it.
    let job = unsafe { &*job.cast::<Job<'_>>() };
    let all = AssertUnwindSafe(|| {
        loop {
            let task = job.next.fetch_add(1, Ordering::Relaxed);
            if task >= job.tasks {
                return;
            }
            (job.work)(task);
        }
    });
    if catch_unwind(all).is_err() {
        job.panicked.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
pub mod tests {
    use std::thread;

    use super::*;

    struct Data(*mut c_void);
    unsafe impl Sync for Data {}

    unsafe extern "C" fn on_new_threads(
        body: extern "C" fn(*mut c_void),
        data: *mut c_void,
        threads: c_uint,
        _: c_uint,
    ) {
        let data = &Data(data);
        thread::scope(|scope| {
            for _ in 1..threads {
                scope.spawn(|| body(data.0));
            }
            body(data.0);
        });
    }

    /// Lets tests compute on several threads.
    pub fn with_threads() {
        unsafe { use_threads(on_new_threads) };
    }

    #[test]
    fn every_task_is_done_once() {
        with_threads();
        for round in 0..300 {
            let (threads, tasks) = (1 + round % 5, round % 37);
            let done: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
            for_each(threads, tasks, &|task| {
                done[task].fetch_add(1, Ordering::Relaxed);
            });
            assert!(done.iter().all(|count| count.load(Ordering::Relaxed) == 1));
        }
    }

    #[test]
    fn a_panic_is_the_callers() {
        with_threads();
        for bad in [0, 7, 15] {
            let result = catch_unwind(|| for_each(2, 16, &|task| assert_ne!(task, bad)));
            assert!(result.is_err());
        }
    }
}
