//! Permits are granted exactly when every bound allows it, and leave nothing behind.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

const BOUNDS: MemoryBounds = MemoryBounds { process: 1000, connection: 300, project: 500 };

fn project(n: usize) -> ProjectId {
    ProjectId::new(&format!("p{n}")).unwrap()
}

#[test]
fn background_holders_leave_half_to_requests() {
    let budget = MemoryBudget::new(MemoryBounds { connection: 1000, ..BOUNDS });
    let waiting = budget.background().for_project(&project(1));
    let mut pushes = waiting.try_acquire(200).unwrap();
    let over = pushes.grow(51).unwrap_err();
    assert_eq!((over.scope, over.limit, over.in_use), (MemoryScope::Project, 250, 200));
    let requests = budget.connection().for_project(&project(1));
    let request = requests.try_acquire(300).unwrap();
    // Charges of requests count as well.
    assert_eq!(pushes.grow(1).unwrap_err().limit, 500);
    assert_eq!(pushes.bytes(), 200);
    let other = budget.background().for_project(&project(2)).try_acquire(250).unwrap();
    let third = budget.background().for_project(&project(3));
    let over = third.try_acquire(51).unwrap_err();
    assert_eq!((over.scope, over.limit, over.in_use), (MemoryScope::Process, 500, 450));
    drop((pushes, request, other));
    assert_eq!((budget.in_use(), waiting.project_in_use()), (0, 0));
    let _all_again = waiting.try_acquire(250).unwrap();
}

#[test]
fn a_rejection_names_the_bound_its_value_and_the_bytes_in_use() {
    let budget = MemoryBudget::new(BOUNDS);
    let one = budget.connection().for_project(&project(1));
    let _held = one.try_acquire(300).unwrap();
    let refused = one.try_acquire(1).unwrap_err();
    let scope = MemoryScope::Connection;
    assert_eq!(refused, OverBudget { scope, limit: 300, in_use: 300, requested: 1 });
    assert_eq!(
        refused.to_string(),
        "the memory budget of the connection is 300 bytes, of which 300 are in use; 1 more \
         were requested"
    );

    let other = budget.connection().for_project(&project(1));
    let refused = other.try_acquire(201).unwrap_err();
    assert_eq!((refused.scope, refused.in_use), (MemoryScope::Project, 300));
    let _held_too = other.try_acquire(200).unwrap();

    let refused = budget.holder().try_acquire(501).unwrap_err();
    assert_eq!((refused.scope, refused.in_use), (MemoryScope::Process, 500));
    assert_eq!((budget.in_use(), budget.refused()), (500, 3));
}

#[test]
fn a_permit_lives_as_long_as_any_slice_of_its_bytes() {
    let budget = MemoryBudget::new(BOUNDS);
    let bytes = budget.connection().try_acquire(5).unwrap().attach(Bytes::from("12345"));
    let slice = bytes.slice(1..2);
    drop(bytes);
    assert_eq!((slice.as_ref(), budget.in_use()), (&b"2"[..], 5));
    drop(slice);
    assert_eq!(budget.in_use(), 0);
}

#[test]
fn data_that_must_be_kept_is_charged_above_the_bounds() {
    let budget = MemoryBudget::new(BOUNDS);
    let holder = budget.connection();
    let mut permit = holder.try_acquire(100).unwrap();
    permit.resize_past_bounds(2000);
    assert_eq!((budget.in_use(), holder.connection_in_use()), (2000, 2000));
    assert_eq!(budget.connection().try_acquire(1).unwrap_err().in_use, 2000);
    permit.resize(400).unwrap();
    assert!(permit.is_past_bounds(), "less, but more than the connection's 300");
    permit.resize_past_bounds(50);
    assert!(!permit.is_past_bounds());
    assert_eq!((budget.in_use(), permit.bytes()), (50, 50));
}

#[test]
fn a_split_permit_is_independent() {
    let budget = MemoryBudget::new(BOUNDS);
    let mut permit = budget.holder().for_project(&project(1)).try_acquire(100).unwrap();
    let (part, rest) = (permit.split(30), permit.split(1000));
    assert_eq!((part.bytes(), rest.bytes(), permit.bytes(), budget.in_use()), (30, 70, 0, 100));
    drop((permit, rest));
    assert_eq!((budget.in_use(), part.holder().project_in_use()), (30, 30));
    drop(part);
    assert_eq!((budget.in_use(), budget.projects()), (0, 0));
}

#[test]
fn a_permit_moves_to_another_project_within_its_bound() {
    let budget = MemoryBudget::new(BOUNDS);
    let mut permit = budget.connection().try_acquire(200).unwrap();
    permit.charge_project(&project(1)).unwrap();
    assert_eq!(permit.holder().project_in_use(), 200);
    let other = budget.holder().for_project(&project(2));
    let full = other.try_acquire(400).unwrap();
    let refused = permit.charge_project(&project(2)).unwrap_err();
    assert_eq!(
        (refused.scope, refused.in_use, refused.requested),
        (MemoryScope::Project, 400, 200)
    );
    assert_eq!((permit.holder().project_in_use(), budget.in_use()), (200, 600));
    drop(full);
    permit.charge_project(&project(2)).unwrap();
    assert_eq!((other.project_in_use(), budget.in_use(), budget.refused()), (200, 200, 1));
    drop((permit, other));
    assert_eq!((budget.in_use(), budget.projects()), (0, 0));
}

#[test]
fn accounts_of_projects_end_with_their_last_holder() {
    let budget = MemoryBudget::new(BOUNDS);
    let connection = budget.connection();
    let holder = connection.for_project(&project(1));
    let permit = holder.try_acquire(10).unwrap();
    let again = connection.for_project(&project(1));
    assert_eq!(again.project_in_use(), 10);
    drop((holder, again));
    assert_eq!(budget.projects(), 1);
    drop(permit);
    assert_eq!(budget.projects(), 0);
}

#[test]
fn threads_never_exceed_a_bound_and_leave_nothing() {
    let budget = MemoryBudget::new(BOUNDS);
    std::thread::scope(|scope| {
        for n in 0..4 {
            let budget = &budget;
            scope.spawn(move || {
                for action in 0..2_000 {
                    let holder = budget.connection().for_project(&project((n + action) % 3));
                    let permit = holder.try_acquire(action % 200);
                    assert!(budget.in_use() <= BOUNDS.process);
                    assert!(holder.project_in_use() <= BOUNDS.project);
                    drop(permit);
                }
            });
        }
    });
    assert_eq!((budget.in_use(), budget.projects()), (0, 0));
}

#[derive(Debug, Clone)]
enum Action {
    Acquire { holder: usize, bytes: usize },
    Resize { permit: usize, bytes: usize },
    Drop { permit: usize },
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let bytes = 0usize..250;
    let action = prop_oneof![
        (0usize..6, bytes.clone()).prop_map(|(holder, bytes)| Action::Acquire { holder, bytes }),
        (0usize..8, bytes).prop_map(|(permit, bytes)| Action::Resize { permit, bytes }),
        (0usize..8).prop_map(|permit| Action::Drop { permit }),
    ];
    prop::collection::vec(action, 0..80)
}

proptest! {
    /// A permit is granted exactly when every bound allows it; the counters are the sums of the
    /// permits.
    #[test]
    fn permits_are_granted_exactly_when_they_fit(actions in actions()) {
        let budget = MemoryBudget::new(BOUNDS);
        // Six connections in three projects.
        let holders: Vec<Holder> =
            (0..6).map(|n| budget.connection().for_project(&project(n / 2))).collect();
        let mut permits: Vec<(usize, Permit)> = Vec::new();
        for action in actions {
            let held = |of: &dyn Fn(usize) -> bool, permits: &[(usize, Permit)]| -> usize {
                permits.iter().filter(|(n, _)| of(*n)).map(|(_, p)| p.bytes()).sum()
            };
            let fits = |holder: usize, more: usize, permits: &[(usize, Permit)]| {
                held(&|n| n == holder, permits) + more <= BOUNDS.connection
                    && held(&|n| n / 2 == holder / 2, permits) + more <= BOUNDS.project
                    && held(&|_| true, permits) + more <= BOUNDS.process
            };
            match action {
                Action::Acquire { holder, bytes } => {
                    let expected = bytes == 0 || fits(holder, bytes, &permits);
                    let permit = holders[holder].try_acquire(bytes);
                    prop_assert_eq!(permit.is_ok(), expected);
                    permits.extend(permit.ok().map(|permit| (holder, permit)));
                }
                Action::Resize { permit, bytes } if permit < permits.len() => {
                    let (holder, had) = (permits[permit].0, permits[permit].1.bytes());
                    let more = bytes.saturating_sub(had);
                    let expected = more == 0 || fits(holder, more, &permits);
                    prop_assert_eq!(permits[permit].1.resize(bytes).is_ok(), expected);
                    let has = permits[permit].1.bytes();
                    prop_assert_eq!(has, if expected { bytes } else { had });
                }
                Action::Drop { permit } if permit < permits.len() => {
                    permits.swap_remove(permit);
                }
                Action::Resize { .. } | Action::Drop { .. } => {}
            }
            prop_assert_eq!(budget.in_use(), held(&|_| true, &permits));
            for (n, holder) in holders.iter().enumerate() {
                prop_assert_eq!(holder.connection_in_use(), held(&|of| of == n, &permits));
                let project = held(&|of| of / 2 == n / 2, &permits);
                prop_assert_eq!(holder.project_in_use(), project);
            }
        }
        drop((permits, holders));
        prop_assert_eq!((budget.in_use(), budget.projects()), (0, 0));
    }
}
