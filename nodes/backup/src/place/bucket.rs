//! A bucket of an S3-compatible store.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, mpsc},
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt, PutPayload, aws::AmazonS3, path::Path};
use tokio::time::timeout;

use super::{
    BackupPlace, Lock, NewFile, OldFile, SCHEME, Use, Visitor, client,
    failure::{S3Failure, S3FailureKind, classify},
    marks,
    settings::S3Settings,
    transfer::{Download, Upload},
};
use crate::BackupError;

/// Objects that are listed or removed together: at most this many names are in memory.
const PAGE: usize = 5_000;
/// Time beyond that of two requests: pauses between repetitions.
const PAUSES: Duration = Duration::from_secs(15);

/// A bucket, or what is below a prefix in it.
#[derive(Clone)]
pub(crate) struct Bucket {
    pub(super) store: Arc<AmazonS3>,
    name: String,
    prefix: Path,
    endpoint: String,
    /// Limit of an operation with all repetitions.
    pub(super) limit: Duration,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bucket({} at {})", self.locate("").display(), self.endpoint)
    }
}

impl Bucket {
    /// The bucket in `s3://BUCKET/PREFIX`. Makes no connection.
    pub(crate) fn open(destination: &str, settings: &S3Settings) -> Result<Self, BackupError> {
        let wrong = || BackupError::S3Destination(destination.to_owned());
        let rest = destination.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let (name, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let is_letter = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
        if name.is_empty() || !name.bytes().all(is_letter) || prefix.starts_with('/') {
            return Err(wrong());
        }
        let prefix = Path::parse(prefix.trim_end_matches('/')).map_err(|_| wrong())?;
        Ok(Self {
            store: Arc::new(client::bucket(settings, name)?),
            name: name.to_owned(),
            prefix,
            endpoint: settings.endpoint_url(),
            limit: settings.timeout * 2 + PAUSES,
        })
    }

    /// Key of a file. Paths are made of names that were checked, or that came from a listing.
    pub(super) fn key(&self, path: &str) -> Result<Path, BackupError> {
        let whole = match self.prefix.as_ref() {
            "" => path.to_owned(),
            prefix => format!("{prefix}/{path}"),
        };
        Path::parse(&whole).map_err(|_| BackupError::S3Destination(whole))
    }

    /// Waits for requests, with a limit on their time; the waiting thread must be one that may block.
    pub(super) fn wait<T: Send + 'static>(
        &self,
        what: &str,
        path: &str,
        work: impl Future<Output = object_store::Result<T>> + Send + 'static,
    ) -> Result<T, BackupError> {
        let (done, outcome) = mpsc::sync_channel(1);
        let limit = self.limit;
        client::runtime()?.spawn(async move {
            // A waiting thread that has gone needs no outcome.
            let _ = done.send(timeout(limit, work).await);
        });
        match outcome.recv() {
            Ok(Ok(Ok(value))) => Ok(value),
            Ok(Ok(Err(error))) => Err(self.failed(what, path, &error)),
            Ok(Err(_)) => Err(self.silent(what, path)),
            Err(_) => Err(BackupError::Stopped),
        }
    }

    pub(super) fn failed(&self, what: &str, path: &str, error: &object_store::Error) -> BackupError {
        let (kind, detail) = classify(error);
        self.failure(kind, what, path, detail)
    }

    pub(super) fn silent(&self, what: &str, path: &str) -> BackupError {
        self.failure(S3FailureKind::Silent, what, path, format!("waited {} s", self.limit.as_secs()))
    }

    fn failure(&self, kind: S3FailureKind, what: &str, path: &str, detail: String) -> BackupError {
        let what = format!("{what} {}", self.locate(path).display());
        let (endpoint, bucket) = (self.endpoint.clone(), self.name.clone());
        BackupError::S3(Box::new(S3Failure { kind, endpoint, bucket, what, detail }))
    }

    /// At most this many objects below a path, after another one.
    pub(super) fn list(
        &self,
        path: &str,
        after: Option<Path>,
        most: usize,
    ) -> Result<Vec<ObjectMeta>, BackupError> {
        let (store, below) = (self.store.clone(), self.key(path)?);
        self.wait("list", path, async move {
            let found = match after {
                Some(after) => store.list_with_offset(Some(&below), &after),
                None => store.list(Some(&below)),
            };
            found.take(most).try_collect().await
        })
    }

    /// Visits all objects below a path, with the rest of their keys.
    fn each(&self, path: &str, visitor: &mut Visitor<'_>) -> Result<(), BackupError> {
        let below = format!("{}/", self.key(path)?);
        let mut after = None;
        loop {
            let page = self.list(path, after, PAGE)?;
            for object in &page {
                // The listing of a store that ignores the prefix is not ours.
                if let Some(rest) = object.location.as_ref().strip_prefix(&below) {
                    visitor(rest, object.size)?;
                }
            }
            after = page.last().map(|object| object.location.clone());
            if page.len() < PAGE {
                return Ok(());
            }
        }
    }
}

impl BackupPlace for Bucket {
    fn locate(&self, path: &str) -> PathBuf {
        let mut url = format!("{SCHEME}{}", self.name);
        for part in [self.prefix.as_ref(), path].into_iter().filter(|part| !part.is_empty()) {
            url = format!("{url}/{part}");
        }
        PathBuf::from(url)
    }

    fn check_used(&self) -> Result<(), BackupError> {
        match self.list("backups", None, 1)?.is_empty() {
            true => Err(BackupError::NoFolder(self.locate(""))),
            false => Ok(()),
        }
    }

    fn prepare(&self) -> Result<(), BackupError> {
        // Before hours of work: a wrong key, no such bucket, no such host.
        self.list("backups", None, 1).map(|_| ())
    }

    fn begin(&self, path: &str) -> Result<bool, BackupError> {
        Ok(self.list(path, None, 1)?.is_empty())
    }

    fn read(&self, path: &str, most: u64) -> Result<Option<Vec<u8>>, BackupError> {
        let (store, key) = (self.store.clone(), self.key(path)?);
        let read = self.wait("read", path, async move {
            let found = store.get(&key).await?;
            match found.meta.size > most {
                true => Ok(None),
                false => found.bytes().await.map(Some),
            }
        });
        match read {
            Ok(Some(bytes)) => Ok(Some(bytes.into())),
            Ok(None) => Err(BackupError::too_large(&self.locate(path), most)),
            Err(error) if error.is_absent() => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn open(&self, path: &str) -> Result<Box<dyn OldFile>, BackupError> {
        Ok(Box::new(Download::open(self.clone(), path)?))
    }

    fn put(&self, path: &str, bytes: Bytes) -> Result<(), BackupError> {
        let (store, key) = (self.store.clone(), self.key(path)?);
        self.wait("write", path, async move { store.put(&key, PutPayload::from(bytes)).await.map(|_| ()) })
    }

    fn create(&self, path: &str) -> Result<Box<dyn NewFile>, BackupError> {
        Ok(Box::new(Upload::begin(self.clone(), path)))
    }

    fn folders(&self, path: &str) -> Result<Vec<String>, BackupError> {
        let mut names: Vec<String> = Vec::new();
        self.each(path, &mut |rest, _| {
            if let Some((name, _)) = rest.split_once('/')
                && names.last().is_none_or(|last| last != name)
            {
                names.push(name.to_owned());
            }
            Ok(())
        })?;
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn visit(&self, path: &str, visitor: &mut Visitor<'_>) -> Result<(), BackupError> {
        self.each(path, &mut |rest, length| {
            if rest.split('/').count() == 2 { visitor(rest, length) } else { Ok(()) }
        })
    }

    fn remove(&self, paths: &[String]) -> Result<(), BackupError> {
        let keys = paths.iter().map(|path| self.key(path)).collect::<Result<Vec<_>, _>>()?;
        for (keys, paths) in keys.chunks(PAGE).zip(paths.chunks(PAGE)) {
            let (store, keys) = (self.store.clone(), keys.to_vec());
            let first = paths.first().map_or("", String::as_str);
            self.wait("remove", first, async move {
                let keys = stream::iter(keys.into_iter().map(Ok)).boxed();
                store.delete_stream(keys).try_for_each(|_| async { Ok(()) }).await
            })?;
        }
        Ok(())
    }

    fn remove_folder(&self, path: &str) -> Result<(), BackupError> {
        let mut files = Vec::new();
        self.each(path, &mut |rest, _| {
            files.push(format!("{path}/{rest}"));
            Ok(())
        })?;
        self.remove(&files)
    }

    fn sync(&self, _: &str) -> Result<(), BackupError> {
        // A store answers when an object is durable.
        Ok(())
    }

    fn lock(&self, purpose: Use) -> Result<Box<dyn Lock>, BackupError> {
        if purpose == Use::Prune {
            self.check_used()?;
        }
        marks::lock(self, purpose)
    }

    fn is_remote(&self) -> bool {
        true
    }
}
