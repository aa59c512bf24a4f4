-- Lets syncs run again. The key is removed, as it is in Git, where it should not be.
obj.spec.suspend = nil
return obj
