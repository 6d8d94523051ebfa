//! Which finished Runs of an Experiment are to be deleted now: a pure function of their ends and of the time.
//!
//! In: finished Runs only, which stay finished: a terminal phase is never left, and another Run of the same name has
//! another UID. Out: the oldest ones that `spec.retention` does not keep, a bounded number at a time.

use jiff::{SignedDuration, Timestamp};
use trainyard_api::retention::Retention;

/// Runs deleted at a time. Each costs the API server some five writes: the Run, its finalizer, and what the garbage
/// collector finds of it. Fifty of them are nothing that anybody else would notice.
pub const AT_ONCE: usize = 10;

/// Time between two such lots of one Experiment. So ten thousand old Runs are gone in a quarter of an hour, which is soon
/// for what nobody has missed for days.
pub const PAUSE: SignedDuration = SignedDuration::from_secs(1);

/// A Run that has finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// When it ended.
    pub ended: Timestamp,
}

/// What is due.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Due {
    /// To be deleted now, the oldest first.
    pub now: Vec<Finished>,
    /// When to look again if nothing changes.
    pub again_at: Option<Timestamp>,
}

/// What is due of these; `last` is when some were last deleted.
pub fn due(
    retention: &Retention,
    mut finished: Vec<Finished>,
    last: Option<Timestamp>,
    now: Timestamp,
) -> Due {
    finished.sort_unstable_by(|one, other| (one.ended, &one.name).cmp(&(other.ended, &other.name)));
    let Retention { max_age, max_count } = retention;
    let expires = |run: &Finished| {
        let age = SignedDuration::from((*max_age)?);
        Some(run.ended.saturating_add(age).unwrap_or(Timestamp::MAX))
    };
    // Both are the oldest so many.
    let too_old = finished.iter().take_while(|run| expires(run).is_some_and(|at| at <= now)).count();
    let too_many = max_count.map_or(0, |most| finished.len().saturating_sub(most.max(0) as usize));
    let surplus = too_old.max(too_many);
    let next_expiry = finished.get(surplus).and_then(expires);
    if surplus == 0 {
        return Due { now: Vec::new(), again_at: next_expiry };
    }
    if let Some(next) = last.map(|last| last + PAUSE).filter(|next| now < *next) {
        return Due { now: Vec::new(), again_at: Some(next) };
    }
    let more = (surplus > AT_ONCE).then(|| now + PAUSE);
    finished.truncate(surplus.min(AT_ONCE));
    Due { now: finished, again_at: more.or(next_expiry) }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;
    use trainyard_api::duration::Duration;

    use super::*;

    fn at(minutes: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minutes)
    }

    /// Runs `r<minute>` that ended at these minutes.
    fn ended(minutes: &[i64]) -> Vec<Finished> {
        let run = |minute: &i64| Finished {
            name: format!("r{minute}"),
            uid: format!("u{minute}"),
            ended: at(*minute),
        };
        minutes.iter().map(run).collect()
    }

    fn kept(age_minutes: Option<i64>, count: Option<i32>) -> Retention {
        Retention { max_age: age_minutes.map(Duration::from_mins), max_count: count }
    }

    fn names(due: &Due) -> Vec<&str> {
        due.now.iter().map(|run| run.name.as_str()).collect()
    }

    #[rstest]
    #[case::nobody_is_old(kept(Some(60), None), &[], Some(70))]
    #[case::the_oldest_is_old(kept(Some(20), None), &["r10"], Some(40))]
    #[case::one_is_exactly_old(kept(Some(10), None), &["r10", "r20"], Some(35))]
    #[case::all_are_old(kept(Some(1), None), &["r10", "r20", "r25"], None)]
    #[case::one_too_many(kept(None, Some(2)), &["r10"], None)]
    #[case::as_many_as_may_be(kept(None, Some(3)), &[], None)]
    #[case::age_is_stricter(kept(Some(10), Some(2)), &["r10", "r20"], Some(35))]
    #[case::number_is_stricter(kept(Some(20), Some(1)), &["r10", "r20"], Some(45))]
    fn the_oldest_go_by_whichever_limit_says_so(
        #[case] retention: Retention,
        #[case] expected: &[&str],
        #[case] again_at: Option<i64>,
    ) {
        let due = due(&retention, ended(&[25, 10, 20]), None, at(30));
        assert_eq!((names(&due).as_slice(), due.again_at), (expected, again_at.map(at)));
    }

    #[test]
    fn many_go_in_lots_however_often_it_is_asked() {
        let minutes: Vec<i64> = (0..25).collect();
        let first = due(&kept(Some(1), None), ended(&minutes), None, at(60));
        assert_eq!((first.now.len(), first.now[0].name.as_str()), (AT_ONCE, "r0"));
        assert_eq!(first.again_at, Some(at(60) + PAUSE));
        let soon = at(60) + SignedDuration::from_millis(500);
        let second = due(&kept(Some(1), None), ended(&minutes[10..]), Some(at(60)), soon);
        assert_eq!((names(&second).len(), second.again_at), (0, Some(at(60) + PAUSE)));
        let third = due(&kept(Some(1), None), ended(&minutes[20..]), Some(at(60)), at(60) + PAUSE);
        assert_eq!((third.now.len(), third.again_at), (5, None));
    }
}
