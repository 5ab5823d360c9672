;; A handler of the type `noop` that answers ok(none) and imports nothing: what is measured with it is the
;; sandbox and not the guest.
(component
  (core module $core
      (memory (export "memory") 2)
    (global $free (mut i32) (i32.const 32768))
    (func (export "realloc") (param i32 i32 i32 i32) (result i32)
      (global.set $free (i32.and (i32.add (global.get $free) (i32.const 7)) (i32.const -8)))
      (global.get $free)
      (global.set $free (i32.add (global.get $free) (local.get 3))))
    (func (export "describe") (result i32) (i32.const 8))
    (func $handle (export "handle") (param $item i32) (result i32) (i32.const 1024))
    ;; The description: name, version, types.
    (data (i32.const 8) "\40\00\00\00\04\00\00\00\50\00\00\00\05\00\00\00\00\02\00\00\01\00\00\00")
    (data (i32.const 64) "noop")
    (data (i32.const 80) "1.2.3")
    ;; The types as pointers and lengths, then their letters.
    (data (i32.const 512) "\08\02\00\00\04\00\00\00noop"))
  (core instance $i (instantiate $core ))

  (type $item' (record
    (field "id" u64) (field "type" string) (field "idem-key" string) (field "cid" string)
    (field "saga" (option string)) (field "ordering-key" (option string)) (field "attempt" u32)
    (field "maybe-executed" bool) (field "payload" (list u8)) (field "content-type" string)
    (field "headers" (list (tuple string string))) (field "created-at" u64) (field "deadline" u64)
    (field "attributes" (list (tuple string string)))))
  (export $item "item" (type $item'))
  (type $class' (enum "retryable" "permanent" "defer"))
  (export $class "failure-class" (type $class'))
  (type $failure' (record
    (field "class" $class) (field "code" string) (field "message" string) (field "retry-after-ms" (option u64))))
  (export $failure "failure" (type $failure'))
  (type $description' (record (field "name" string) (field "version" string) (field "types" (list string))))
  (export $description "description" (type $description'))

  (func $describe (result $description)
    (canon lift (core func $i "describe") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (func $handle (param "item" $item) (result (result (option (list u8)) (error $failure)))
    (canon lift (core func $i "handle") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
  (instance $handler
    (export "description" (type $description))
    (export "item" (type $item))
    (export "failure" (type $failure))
    (export "describe" (func $describe))
    (export "handle" (func $handle)))
  (export "outbox:handler/handler@0.1.0" (instance $handler)))
