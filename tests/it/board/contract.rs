//! openapi.json: each call that it has is asked, and each answer is as it says.

use serde_json::Value;

use super::{host, json, let_read, read, up};
use crate::stack::{Answer, expect, wait_until};

/// Does the value fit the schema? A part of JSON Schema: that which the document uses, and nothing passes unread.
fn check(document: &Value, schema: &Value, value: &Value, place: &str) -> Result<(), String> {
    let wrong = |why: &str| Err(format!("{place} is {value}, and {why}: {schema}"));
    for (keyword, wanted) in schema.as_object().unwrap() {
        match keyword.as_str() {
            "description" | "format" | "default" => {}
            "$ref" => {
                let name = wanted.as_str().unwrap().strip_prefix("#/components/schemas/").unwrap();
                check(document, &document["components"]["schemas"][name], value, place)?;
            }
            "anyOf" => {
                let any = wanted.as_array().unwrap();
                if !any.iter().any(|schema| check(document, schema, value, place).is_ok()) {
                    return wrong("fits none of them");
                }
            }
            "type" => {
                let fits = match wanted.as_str().unwrap() {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "integer" => value.is_u64(),
                    "boolean" => value.is_boolean(),
                    "null" => value.is_null(),
                    other => panic!("the type {other}"),
                };
                if !fits {
                    return wrong("has another type");
                }
            }
            "enum" => {
                if !wanted.as_array().unwrap().contains(value) {
                    return wrong("is none of them");
                }
            }
            "pattern" => {
                let Some(text) = value.as_str() else { return wrong("is no text") };
                let fits = match wanted.as_str().unwrap() {
                    "^[0-9]+$" => !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()),
                    "^[0-9a-f]{8}[.][0-9]+$" => text.split_once('.').is_some_and(|(board, number)| {
                        board.len() == 8
                            && board.bytes().all(|byte| byte.is_ascii_hexdigit())
                            && number.parse::<u64>().is_ok()
                    }),
                    other => panic!("the pattern {other}"),
                };
                if !fits {
                    return wrong("does not match");
                }
            }
            "minimum" => {
                if value.as_u64() < wanted.as_u64() {
                    return wrong("is too small");
                }
            }
            "maximum" => {
                if value.as_u64() > wanted.as_u64() {
                    return wrong("is too large");
                }
            }
            "required" => {
                for name in wanted.as_array().unwrap() {
                    if value.get(name.as_str().unwrap()).is_none() {
                        return wrong(&format!("lacks {name}"));
                    }
                }
            }
            "additionalProperties" => {
                assert_eq!(*wanted, false);
                for name in value.as_object().into_iter().flatten().map(|(name, _)| name) {
                    if schema["properties"].get(name).is_none() {
                        return wrong(&format!("has {name} besides"));
                    }
                }
            }
            "properties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    if let Some(schema) = wanted.get(name) {
                        check(document, schema, value, &format!("{place}.{name}"))?;
                    }
                }
            }
            "items" => {
                for (at, value) in value.as_array().into_iter().flatten().enumerate() {
                    check(document, wanted, value, &format!("{place}[{at}]"))?;
                }
            }
            other => panic!("the keyword {other}"),
        }
    }
    Ok(())
}

/// An answer of a path in the document, with any status that it has there.
#[track_caller]
fn fits(document: &Value, path: &str, answer: &Answer) {
    let status = answer.status.to_string();
    let mut described = &document["paths"][path]["get"]["responses"][&status];
    if described["$ref"] == format!("#/components/responses/{status}") {
        described = &document["components"]["responses"][&status];
    }
    assert!(described.is_object(), "{path} does not say that it answers {answer:?}");
    let Some((media, content)) = described["content"].as_object().and_then(|content| content.iter().next())
    else {
        assert_eq!(answer.body, "", "{path}");
        return;
    };
    assert!(answer.head.to_lowercase().contains(&format!("content-type: {media}")), "{path}: {answer:?}");
    let body: Value = serde_json::from_str(&answer.body).unwrap();
    check(document, &content["schema"], &body, path).unwrap();
}

#[test]
fn the_answers_are_as_the_document_says() {
    let stack = up();
    let pair = stack.pair("client");
    let document = json(&host(&stack, "/api/openapi.json"));
    expect(&mut stack.client(&pair), 0, "Success!");
    stack.member("never@example.com");
    stack.member("disabled@example.com");
    expect(&mut stack.administer(&["user", "disable", "disabled@example.com"]), 0, "");
    let begin = json(&host(&stack, "/api/counts"))["position"].as_str().unwrap().to_owned();
    let board = begin.split('.').next().unwrap();
    wait_until("it has them", || json(&host(&stack, "/api/counts"))["counts"]["disabled"] == 1);
    let changes = format!("/api/changes?after={begin}");
    let first = format!("/api/changes?after={board}.0");
    let asked = [
        ("/api/who", "/api/who"),
        ("/api/who", "/api/who?limit=1"),
        ("/api/who", "/api/who?state=nothing"),
        ("/api/who", "/api/who?after=x"),
        ("/api/who/{email}", "/api/who/valid_user@qt-test.com"),
        ("/api/who/{email}", "/api/who/disabled@example.com"),
        ("/api/history/{email}", "/api/history/valid_user@qt-test.com"),
        ("/api/history/{email}", "/api/history/valid_user@qt-test.com?since=yesterday"),
        ("/api/history/{email}", "/api/history/nobody@example.com"),
        ("/api/who/{email}", "/api/who/nobody@example.com"),
        ("/api/me", "/api/me"),
        ("/api/counts", "/api/counts"),
        ("/api/changes", &changes),
        ("/api/changes", &first),
        ("/api/changes", "/api/changes?after=00000000.1"),
        ("/api/openapi.json", "/api/openapi.json"),
    ];
    for reads in ["self", "all"] {
        let_read(&stack, "valid_user@qt-test.com", reads);
        for (path, url) in asked {
            fits(&document, path, &read(&stack, &pair, &[], url));
            fits(&document, path, &host(&stack, url));
            fits(&document, path, &read(&stack, &pair, &["-X", "PUT"], url));
            fits(&document, path, &super::direct(&stack, &[], url));
            fits(&document, path, &super::direct(&stack, &["-H", "Host: evil.example"], url));
        }
    }
    let tag =
        format!("If-None-Match: \"{}\"", json(&host(&stack, "/api/counts"))["position"].as_str().unwrap());
    fits(&document, "/api/counts", &read(&stack, &pair, &["-H", &tag], "/api/counts"));
    // Every call of it was asked, but for the stream, whose events are the same objects (streams.rs).
    for path in document["paths"].as_object().unwrap().keys() {
        assert!(path == "/api/stream" || asked.iter().any(|(asked, _)| asked == path), "{path}");
    }
    let schemas = document["components"]["schemas"].as_object().unwrap();
    assert!(["Change", "Counts", "Server"].iter().all(|name| schemas.contains_key(*name)));
    // And the check tells an answer that does not fit.
    let person = &document["components"]["schemas"]["Person"];
    let mut value = json(&host(&stack, "/api/who/never@example.com"));
    check(&document, person, &value, "person").unwrap();
    value["state"] = "gone".into();
    assert!(check(&document, person, &value, "person").unwrap_err().contains("is none of them"));
}
