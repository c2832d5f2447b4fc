// Package pglock keeps the locks of gone in PostgreSQL (12 or later).
package pglock
