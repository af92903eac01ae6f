//! Test hook: makes parts of a running node hang. It exists only in builds with debug assertions, never in a release, and
//! only when `TWINBOX_TEST_WEDGE` names a file. While a line of the file is `notifier`, `store` or `executor`, that part
//! hangs. (A hung notifier stays so until it is restarted, and the next one hangs too.)

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use tokio::runtime::Handle;
use tracing::warn;
use twinbox_notifier::NotifierService;
use twinbox_replication_store::Store;

const LOOK: Duration = Duration::from_millis(50);

/// Follows the file from now on.
pub fn obey(store: Store, notifier: NotifierService) {
    let Some(file) = std::env::var_os("TWINBOX_TEST_WEDGE").map(PathBuf::from) else { return };
    let runtime = Handle::current();
    warn!(file = %file.display(), "a test makes parts of this node hang");
    let _ = thread::Builder::new().name("wedge".to_owned()).spawn(move || {
        loop {
            thread::sleep(LOOK);
            if says(&file, "notifier") {
                notifier.wedge();
            }
            if says(&file, "store") {
                wedge_store(&store, &runtime, &file);
            }
            if says(&file, "executor") {
                wedge_executor(&runtime, &file);
            }
        }
    });
}

fn says(file: &Path, part: &str) -> bool {
    fs::read_to_string(file).is_ok_and(|text| text.lines().any(|line| line == part))
}

fn hang(file: &Path, part: &str) {
    while says(file, part) {
        thread::sleep(LOOK);
    }
}

/// Blocks the thread of the store's committer in a transaction.
fn wedge_store(store: &Store, runtime: &Handle, file: &Path) {
    let hanging = file.to_owned();
    // Refused: nothing is written.
    let committed = store.commit(move |_| {
        hang(&hanging, "store");
        Err::<(), ()>(())
    });
    let _ = runtime.block_on(committed);
}

/// Blocks each thread of the runtime with a task that does not return.
fn wedge_executor(runtime: &Handle, file: &Path) {
    for _ in 0..runtime.metrics().num_workers() * 2 {
        let file = file.to_owned();
        runtime.spawn(async move { hang(&file, "executor") });
    }
    hang(file, "executor");
}
