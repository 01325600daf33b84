//! Reader connections beside the writer: a small pool, read-only, one query at a time each.

use super::CatalogError;
use super::error::At;
use parking_lot::{Condvar, Mutex};
use rusqlite::{Connection, OpenFlags};
use std::path::Path;

/// Readers that may run at once; more wait.
const POOL: usize = 4;
/// Pages that each keeps for itself, KiB. What it lacks it has from the kernel's cache.
const CACHE: usize = 4096;

pub(super) struct Readers {
    idle: Mutex<Vec<Connection>>,
    returned: Condvar,
    #[cfg(test)]
    closed: std::sync::atomic::AtomicBool,
}

impl Readers {
    pub(super) fn open(path: &Path) -> Result<Self, CatalogError> {
        let open = || -> rusqlite::Result<Connection> {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            let connection = Connection::open_with_flags(path, flags)?;
            connection.busy_timeout(std::time::Duration::from_secs(30))?;
            connection.execute_batch(&format!(
                "PRAGMA query_only = ON; PRAGMA cache_size = -{CACHE}; PRAGMA cell_size_check = ON;"
            ))?;
            super::schema::plan_once(&connection)?;
            connection.set_prepared_statement_cache_capacity(128);
            Ok(connection)
        };
        let idle = (0..POOL)
            .map(|_| open())
            .collect::<rusqlite::Result<Vec<_>>>()
            .at("open reader", path.display())?;
        Ok(Self {
            idle: Mutex::new(idle),
            returned: Condvar::new(),
            #[cfg(test)]
            closed: std::sync::atomic::AtomicBool::new(false),
        })
    }

    #[cfg(test)]
    pub(super) fn close(&self) {
        self.closed.store(true, std::sync::atomic::Ordering::SeqCst);
    }

    /// Runs `query` in one read transaction, so that its statements see one state.
    pub(super) fn read<T>(
        &self,
        query: impl FnOnce(&Connection) -> Result<T, CatalogError>,
    ) -> Result<T, CatalogError> {
        #[cfg(test)]
        if self.closed.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(CatalogError::Closed { step: "read" });
        }
        let lent = Lent {
            readers: self,
            connection: Some(self.borrow()),
        };
        match &lent.connection {
            Some(connection) => {
                let snapshot = connection.unchecked_transaction().at("begin", "read")?;
                query(&snapshot)
            }
            None => Err(CatalogError::Closed { step: "read" }),
        }
    }

    fn borrow(&self) -> Connection {
        let mut idle = self.idle.lock();
        loop {
            if let Some(connection) = idle.pop() {
                return connection;
            }
            self.returned.wait(&mut idle);
        }
    }
}

/// Gives a connection back, also when a query panics.
struct Lent<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
}

impl Drop for Lent<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.readers.idle.lock().push(connection);
            self.readers.returned.notify_one();
        }
    }
}
