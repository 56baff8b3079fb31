//! Clouds and environments.

use super::*;

fn environment(pairs: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> + use<> {
    let pairs: Vec<_> = pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    move |name| pairs.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
}

#[test]
fn the_environment_names_a_user_or_a_credential() {
    let env = environment(&[
        ("OS_AUTH_URL", "http://keystone"),
        ("OS_USERNAME", "u"),
        ("OS_PASSWORD", "p"),
        ("OS_PROJECT_NAME", "demo"),
        ("OS_PROJECT_DOMAIN_ID", "default"),
    ]);
    let settings = Settings::read(&env, None).unwrap();
    let domain = Domain::Name("Default".to_owned());
    let user = Named::Name { name: "u".to_owned(), domain };
    let domain = Domain::Id("default".to_owned());
    let project = Named::Name { name: "demo".to_owned(), domain };
    let password = Secret::new("p".to_owned());
    assert_eq!(settings.identity().unwrap(), Identity::Password { user, password, project });
    assert!(!format!("{settings:?}").contains("\"p\""));
    settings.builder().unwrap().build().unwrap();

    let env = environment(&[
        ("OS_AUTH_URL", "http://keystone"),
        ("OS_APPLICATION_CREDENTIAL_ID", "c"),
        ("OS_APPLICATION_CREDENTIAL_SECRET", "s"),
    ]);
    let identity = Settings::read(&env, None).unwrap().identity().unwrap();
    let (id, secret) = (Named::Id("c".to_owned()), Secret::new("s".to_owned()));
    assert_eq!(identity, Identity::Application { id, user: None, secret });

    let env = environment(&[("OS_AUTH_URL", "http://keystone"), ("OS_USERNAME", "u")]);
    let error = Settings::read(&env, None).unwrap().builder().unwrap_err().to_string();
    assert!(error.contains("OS_PASSWORD") || error.contains("OS_PROJECT_NAME"), "{error}");
}

#[test]
fn a_cloud_is_completed_by_secrets_and_the_environment_wins() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("clouds.yaml");
    std::fs::write(
        &file,
        "clouds:\n  mine:\n    region_name: north\n    verify: false\n    auth:\n      \
         auth_url: http://keystone/v3\n      username: u\n      project_id: 17\n",
    )
    .unwrap();
    let secrets = "clouds:\n  mine:\n    auth:\n      password: p\n";
    std::fs::write(directory.path().join("secure.yaml"), secrets).unwrap();
    let path = file.to_str().unwrap();
    let env = environment(&[("OS_CLIENT_CONFIG_FILE", path), ("OS_REGION_NAME", "south")]);
    let settings = Settings::read(&env, Some("mine")).unwrap();
    for (name, value) in [
        ("region_name", "south"),
        ("insecure", "true"),
        ("password", "p"),
        ("project_id", "17"),
        ("auth_url", "http://keystone/v3"),
    ] {
        assert_eq!(settings.get(name), Some(value), "{name}");
    }
    let error = Settings::read(&env, Some("other")).unwrap_err().to_string();
    assert!(error.contains("other") && error.contains(path), "{error}");

    std::fs::write(&file, "clouds: [").unwrap();
    let error = Settings::read(&env, Some("mine")).unwrap_err().to_string();
    assert!(error.starts_with(path), "{error}");
}

#[test]
fn without_keystone_the_project_is_sent_as_it_is() {
    let env = environment(&[("OS_ENDPOINT", "http://h:8888"), ("OS_PROJECT_ID", "demo")]);
    Settings::read(&env, None).unwrap().builder().unwrap().build().unwrap();
    let error = Settings::default().builder().unwrap().build().unwrap_err();
    assert!(error.to_string().contains("url"), "{error}");
}
