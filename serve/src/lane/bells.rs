//! Who waits for which user's answers, and wakes when one is settled. A bell says that something is new, not what: whoever hears it looks.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use larder_store::TenantId;
use tokio::sync::watch;

/// Whose questions and answers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Owner {
    pub(crate) tenant: TenantId,
    /// Not empty.
    pub(crate) user: Arc<str>,
}

/// The bells that somebody listens to.
#[derive(Debug, Default)]
pub(crate) struct Bells(Mutex<HashMap<Owner, watch::Sender<()>>>);

/// Hears the bell of one owner, from when it was made.
#[derive(Debug)]
pub(crate) struct Listener {
    bells: Arc<Bells>,
    owner: Owner,
    rings: watch::Receiver<()>,
}

impl Bells {
    pub(crate) fn listen(self: &Arc<Self>, owner: Owner) -> Listener {
        let rings = self.lock().entry(owner.clone()).or_insert_with(|| watch::Sender::new(())).subscribe();
        Listener { bells: self.clone(), owner, rings }
    }

    pub(crate) fn ring(&self, owner: &Owner) {
        if let Some(bell) = self.lock().get(owner) {
            bell.send_replace(());
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Owner, watch::Sender<()>>> {
        // The map is never left half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Listener {
    /// Resolves once the bell has rung since the last time, or since the beginning.
    pub(crate) async fn rung(&mut self) {
        if self.rings.changed().await.is_err() {
            // A bell lives as long as its last listener.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let mut bells = self.bells.lock();
        if bells.get(&self.owner).is_some_and(|bell| bell.receiver_count() == 1) {
            bells.remove(&self.owner);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_listener_hears_what_rang_since_it_listens_and_no_other_bell() {
        let bells = Arc::new(Bells::default());
        let owner = |user: &str| Owner { tenant: TenantId(1), user: user.into() };
        bells.ring(&owner("ada"));
        let (mut ada, mut also_ada, mut bob) =
            (bells.listen(owner("ada")), bells.listen(owner("ada")), bells.listen(owner("bob")));
        bells.ring(&owner("ada"));
        ada.rung().await;
        also_ada.rung().await;
        assert!(futures_idle(&mut ada) && futures_idle(&mut bob));
        assert_eq!(bells.lock().len(), 2);
        drop(ada);
        bells.ring(&owner("ada"));
        also_ada.rung().await;
        drop((also_ada, bob));
        assert!(bells.lock().is_empty(), "nobody listens any more");
    }

    fn futures_idle(listener: &mut Listener) -> bool {
        !listener.rings.has_changed().unwrap()
    }
}
