//! Promise: what a look at an entity says is what a fetch says, whatever was done to the store before, in whichever tier the entity lies; and
//! looking changes nothing.

use larder_store::{Inspection, Standing, Status, Store, TenantId, Tier};

use crate::support::history::{FIRST, Step, open, views};
use crate::support::long;
use crate::support::store::{of_tenant, plan};

/// Looks at somebody in every view, and then fetches the same.
fn look_and_fetch(store: &Store, entity: &str, now_ms: i64) -> Vec<Inspection> {
    let looks = store.inspect(TenantId(1), entity, None, now_ms).unwrap();
    let again = store.inspect(TenantId(1), entity, None, now_ms).unwrap();
    for ((view, look), again) in views().iter().zip(&looks).zip(&again) {
        let features: Vec<_> = view.features.iter().map(|feature| format!("{}:{}", view.name, feature.name)).collect();
        let plan = plan(store, &features.iter().map(String::as_str).collect::<Vec<_>>());
        let fetched = store.fetch(&plan, &of_tenant(1, &[entity]), now_ms).unwrap();
        let (seen, told) = (&look.fetched, &fetched.views[0]);
        let what = format!("{} of {entity}: {look:?}", view.name);
        assert_eq!(
            (&look.hot, &look.fetched.tier),
            (&again.hot, &again.fetched.tier),
            "looking changes nothing: {what}"
        );
        assert_eq!((&seen.status, &seen.tier), (&told.status, &told.tier), "{what}");
        assert_eq!((&seen.generation, &seen.event_time_ms), (&told.generation, &told.event_time_ms), "{what}");
        assert_eq!((&seen.features, &seen.columns), (&told.features, &told.columns), "{what}");
        let stands = !matches!(look.standing, Standing::Nothing | Standing::Deleted | Standing::LeftOut);
        match seen.status[0] {
            Status::Present | Status::Expired => assert!(stands, "{what}"),
            Status::NotFound => assert!(!stands, "{what}"),
            Status::Erased => assert!(look.erased_ms.is_some(), "{what}"),
            Status::Null | Status::NotInTime => panic!("{what}"),
        }
        // What is read here becomes hot beside the request; the next look is to find it.
        store.hot_usage();
    }
    looks
}

#[test]
fn a_look_says_what_a_fetch_says() {
    let mut met = [false; 9];
    for seed in 0..if long() { 60 } else { 6 } {
        let folder = tempfile::tempdir().unwrap();
        let mut store = open(folder.path()).unwrap();
        for number in FIRST..FIRST + 60 {
            Step::of(seed, number).perform(&store, folder.path(), seed, number).unwrap();
            if number % 20 == 0 {
                drop(store);
                store = open(folder.path()).unwrap();
            }
            // A few at a time, so that some become hot and others are left where they are.
            for user in [number % 16, number / 3 % 16, 99] {
                for look in look_and_fetch(&store, &format!("user-{user:02}"), number as i64) {
                    met[look.standing as usize] = true;
                    met[6] |= look.fetched.tier == [Tier::Hot];
                    met[7] |= look.fetched.tier == [Tier::Cold];
                    met[8] |= look.fetched.status == [Status::Erased];
                }
            }
        }
    }
    assert_eq!(met, [true; 9], "every standing, hot and cold rows, and somebody erased were looked at");
}
