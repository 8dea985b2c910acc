//! openapi.json, and the answers as they are.
