//! What is good by itself but clashes with the rest of the file, or is more than fits.

use super::{assert_refused, good, parse, problems};

#[test]
fn what_is_there_twice_names_both_lines() {
    assert_refused(&[
        (
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\n- name: a\n  frontends: [10.0.0.2:80]\n",
            4,
            &["default/a is already defined at line 2"],
        ),
        (
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\n- name: b\n  frontends: [10.0.0.1:80]\n",
            5,
            &["10.0.0.1:80 of default/b is already a frontend of default/a, at line 3"],
        ),
        (
            "services:\n- name: a\n  frontends:\n  - 10.0.0.1:80\n  - '[::ffff:10.0.0.1]:80'\n",
            5,
            &["already a frontend of default/a, at line 4"],
        ),
        (
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\n  backends:\n  \
             - address: 10.1.0.1:80\n  - address: 10.1.0.1:80\n",
            6,
            &["backend 10.1.0.1:80 is in default/a twice, first at line 5"],
        ),
        (
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\n  backends: [{address: 10.0.0.2:80}]\n\
             - name: b\n  frontends: [10.0.0.2:80]\n",
            6,
            &["frontend 10.0.0.2:80 of default/b is also a backend of default/a, at line 4"],
        ),
        (
            "services:\n- name: a\n  frontends: [10.0.0.1:80]\n  backends: [{address: 10.0.0.1:80}]\n",
            3,
            &["is also a backend of default/a, at line 4"],
        ),
    ]);
}

#[test]
fn the_same_port_of_two_addresses_is_no_duplicate() {
    let text = "services:\n- {name: a, frontends: [10.0.0.1:80, 10.0.0.1:81, 10.0.0.2:80]}\n\
                - {name: a, namespace: other, frontends: [10.0.0.3:80]}\n";
    assert_eq!(
        parse(text).unwrap().config.desired_state().services.len(),
        2
    );
}

#[test]
fn more_than_fits() {
    let mut text = "services:\n- name: a\n  frontends: [10.0.0.1:80]\n  backends:\n".to_owned();
    for index in 0..5000 {
        text.push_str(&format!(
            "  - address: 10.1.{}.{}:80\n",
            index / 250,
            index % 250 + 1
        ));
    }
    let found = problems(&text);
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].line, Some(5));
    assert!(
        found[0]
            .message
            .contains("default/a has 5000 backends, and a service has at most 4096"),
        "{}",
        found[0].message
    );

    let found = problems(&good::sharing(9));
    assert_eq!(found.len(), 1, "{found:#?}");
    assert_eq!(found[0].line, Some(28));
    assert!(
        found[0].message.contains("is in more than 8 services"),
        "{found:?}"
    );

    let mut text = "services:\n- name: a\n  frontends:\n".to_owned();
    for port in 1..=65 {
        text.push_str(&format!("  - 10.0.0.1:{port}\n"));
    }
    let found = problems(&text);
    assert!(
        found[0]
            .message
            .contains("65 frontends, and a service has at most 64"),
        "{found:?}"
    );
    assert_eq!(found[0].line, Some(4));
}
