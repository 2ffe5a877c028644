# The main scene's script: draws the scene in SCENES from the front and above into PICTURE, then ends.
extends Spatial
var frames = 0
func _ready():
    var asset = load("res://" + OS.get_environment("SCENES")).instance()
    add_child(asset)
    var box = AABB()
    for child in asset.get_children():
        if child is MeshInstance:
            box = child.get_transformed_aabb()
    var middle = box.position + box.size / 2
    var camera = Camera.new()
    add_child(camera)
    camera.fov = 35
    camera.look_at_from_position(middle + Vector3(0, 0.7, 1).normalized() * 2.2 * box.size.length(), middle, Vector3(0, 1, 0))
    camera.make_current()
    var world = Environment.new()
    world.background_mode = Environment.BG_COLOR
    world.background_color = Color(1, 1, 1)
    world.ambient_light_color = Color(1, 1, 1)
    world.ambient_light_energy = 1.0
    camera.environment = world
func _process(_delta):
    frames += 1
    if frames == 10:
        var picture = get_viewport().get_texture().get_data()
        picture.flip_y()
        picture.save_png(OS.get_environment("PICTURE"))
        get_tree().quit()
