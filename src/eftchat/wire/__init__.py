"""What is said on the wire, not how it travels: shapes, URIs, close codes, bytes."""
