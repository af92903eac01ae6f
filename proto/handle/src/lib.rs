//! A shared handle whose content the compiler does not look into.
//!
//! The compiler asks of each future whether it may move between threads, and walks through all types that the future holds to
//! find out, again for each async method of a trait. The handles of a node lead to some four thousand types: these walks
//! took two thirds of the time in which the requests of administrators were compiled. A trait object answers at once.

use std::{fmt, ops::Deref, sync::Arc};

/// A value that its clones share, as those of an [`Arc`] do. The compiler checks that the value is `Send` and `Sync` where a handle
/// is made, and nowhere else. Reading the value costs a virtual call.
pub struct Handle<T>(Arc<dyn Holds<T>>);

/// A value behind a trait object.
trait Holds<T>: Send + Sync {
    fn value(&self) -> &T;
}

impl<T: Send + Sync> Holds<T> for T {
    fn value(&self) -> &T {
        self
    }
}

impl<T: Send + Sync + 'static> Handle<T> {
    /// Shares a value.
    pub fn new(value: T) -> Self {
        Self(Arc::new(value))
    }
}

impl<T> Clone for Handle<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Deref for Handle<T> {
    type Target = T;

    fn deref(&self) -> &T {
        (*self.0).value()
    }
}

impl<T: fmt::Debug> fmt::Debug for Handle<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        T::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

    use super::*;

    #[test]
    fn clones_share_the_value_and_the_last_one_drops_it() {
        let count = Arc::new(AtomicU32::new(0));
        let first = Handle::new(Arc::clone(&count));
        let second = first.clone();
        second.fetch_add(3, Relaxed);
        assert_eq!(first.load(Relaxed), 3);
        assert_eq!(format!("{second:?}"), "3");
        drop(first);
        assert_eq!(Arc::strong_count(&count), 2);
        drop(second);
        assert_eq!(Arc::strong_count(&count), 1);
    }

    #[test]
    fn a_handle_moves_between_threads() {
        let handle = Handle::new(String::from("one"));
        let there = handle.clone();
        assert_eq!(std::thread::spawn(move || there.len()).join().unwrap(), handle.len());
    }
}
