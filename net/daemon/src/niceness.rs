//! How the threads beside the cores stand to them: where both want one processor, the cores go first.
//!
//! Called at the start of the control thread's loop and of the thread that writes `rules.log`. Such a thread keeps a third of a core's share, so that
//! saturated cores do not starve it; and nothing is ever raised, so that no right is needed.

/// What is added to the niceness of the process.
const NICENESS: i32 = 5;

/// Has the calling thread, and those that it starts from now on, stand back behind the cores.
pub(crate) fn stand_back() {
    // Where that is refused the thread competes on equal terms.
    if let Err(error) = rustix::process::nice(NICENESS) {
        tracing::debug!("a thread beside the cores keeps its niceness: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_calling_thread_stands_back() {
        let of_thread = || rustix::process::nice(0).expect("the niceness can be read");
        let before = of_thread();
        let behind = std::thread::spawn(move || {
            stand_back();
            of_thread()
        });
        assert_eq!(behind.join().expect("no panic"), (before + NICENESS).min(19));
        assert_eq!(of_thread(), before);
    }
}
