//! Backends whose own addresses are intercepted.

use super::*;

#[test]
fn a_backend_that_two_services_intercept_leads_to_the_first_by_name_while_it_does() {
    let intercepting = |name: &str, frontends: &[u8], backends: &[u16]| Service {
        intercept: Setting::built_in(Intercept::Pods),
        ..service(name, frontends, 1, backends.iter().copied())
    };
    let (a, b) = (
        intercepting("a", &[], &[1]),
        intercepting("b", &[2], &[1, 2]),
    );
    let plain = service("a", &[1], 1, [1]);
    let mut ground = Ground::new();
    for services in [
        vec![b.clone()],
        vec![a.clone(), b.clone()],
        vec![plain, b.clone()],
        vec![a.clone(), b.clone()],
        vec![a],
        vec![b],
    ] {
        ground.advance(state(services));
        ground.pass(GRACE);
        ground.assert_exact();
    }
}

#[test]
fn an_address_that_is_a_frontend_now_and_a_backend_then_always_leads_somewhere() {
    let address = backend(1).address;
    let as_frontend = |name: &str| Service {
        frontends: vec![address],
        ..service(name, &[], 1, [2])
    };
    let as_backend = |name: &str| Service {
        intercept: Setting::built_in(Intercept::Pods),
        ..service(name, &[], 1, [1])
    };
    let mut ground = Ground::new();
    for services in [
        vec![as_backend("a")],
        vec![as_frontend("b")],
        vec![as_backend("a")],
        vec![as_backend("b")],
        vec![as_frontend("a")],
        vec![as_frontend("b")],
        vec![as_backend("b")],
        vec![as_frontend("b")],
    ] {
        // `advance` looks after every operation.
        ground.advance(state(services));
        ground.pass(GRACE);
        ground.assert_exact();
    }
    ground.advance(state([]));
    ground.assert_exact();
}
